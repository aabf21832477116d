import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.FhirVersionEnum;
import ca.uhn.fhir.context.support.DefaultProfileValidationSupport;
import ca.uhn.fhir.validation.FhirValidator;
import ca.uhn.fhir.validation.ResultSeverityEnum;
import ca.uhn.fhir.validation.SingleValidationMessage;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.hl7.fhir.common.hapi.validation.support.CommonCodeSystemsTerminologyService;
import org.hl7.fhir.common.hapi.validation.support.InMemoryTerminologyServerValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.SnapshotGeneratingValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.ValidationSupportChain;
import org.hl7.fhir.common.hapi.validation.validator.FhirInstanceValidator;

/**
 * Prints a line for every error of the resources in a folder: file, place and message, by tabs.
 *
 * Arguments: the FHIR version (R4, R4B or R5), and the folder of JSON files. It asks no server.
 */
public class HapiValidator {
    public static void main(String[] arguments) throws Exception {
        FhirContext context = new FhirContext(FhirVersionEnum.valueOf(arguments[0]));
        FhirValidator validator = context.newValidator();
        validator.registerValidatorModule(new FhirInstanceValidator(new ValidationSupportChain(
            new DefaultProfileValidationSupport(context),
            new CommonCodeSystemsTerminologyService(context),
            new InMemoryTerminologyServerValidationSupport(context),
            new SnapshotGeneratingValidationSupport(context))));
        for (Path file : files(arguments[1])) {
            for (SingleValidationMessage each : validator.validateWithResult(Files.readString(file)).getMessages()) {
                if (each.getSeverity().compareTo(ResultSeverityEnum.ERROR) >= 0) {
                    String message = each.getMessage().replaceAll("\\s+", " ");
                    System.out.println(file.getFileName() + "\t" + each.getLocationString() + "\t" + message);
                }
            }
        }
    }

    private static List<Path> files(String folder) throws Exception {
        try (Stream<Path> found = Files.list(Paths.get(folder))) {
            return found.sorted().collect(Collectors.toList());
        }
    }
}
