import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.elasticsearch.Build;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/**
 * One node of Elasticsearch 8 from its jars, without security and the checks of its start script.
 *
 * Its data are in the folder it runs in. Arguments: the jar of the module that listens, which is
 * not in the class path, and settings, as name=value.
 */
public class Elasticsearch8 {
    public static void main(String[] arguments) throws Exception {
        Path home = Paths.get("data").toAbsolutePath();
        Path config = Files.createDirectories(home.resolve("config"));
        Settings.Builder settings = Settings.builder().put("path.home", home);
        for (String argument : List.of(arguments).subList(1, arguments.length)) {
            String[] setting = argument.split("=", 2);
            settings.put(setting[0], setting[1]);
        }
        Environment environment = new Environment(settings.build(), config);
        addModule(Paths.get(arguments[0]), environment.modulesDir().resolve("transport-netty4"));
        LogConfigurator.configureESLogging();
        PluginsLoader plugins = PluginsLoader.createPluginsLoader(
            PluginsLoader.loadModulesBundles(environment.modulesDir()), Set.of(), Map.of(), false);
        new Node(environment, plugins).start();
        Thread.currentThread().join();
    }

    /** Write the folder of a module as a distribution has it, but for the name of a Java module. */
    private static void addModule(Path jar, Path module) throws Exception {
        Files.createDirectories(module);
        Files.copy(jar, module.resolve("module.jar"), StandardCopyOption.REPLACE_EXISTING);
        Files.write(module.resolve("plugin-descriptor.properties"), List.of(
            "name=transport-netty4",
            "description=HTTP and transport",
            "version=" + Build.current().version(),
            "elasticsearch.version=" + Build.current().version(),
            "java.version=17",
            "classname=org.elasticsearch.transport.netty4.Netty4Plugin"));
    }
}
